// Calico's own code behind one door, for the tests beside it: calicoctl's commands, and its allocator as several hosts.
//
//	calico apply|get|ipam|datastore ...   as calicoctl (ETCD_ENDPOINTS says where)
//	calico allocate SECONDS HOST...       assigns and releases addresses at random, and says what it does
//	calico calculate NODE                 what Felix would have its dataplane do on a node
//	calico begin | tunnels | felix        what runs on a node
//	calico confd DIRECTORY                confd, with its configuration there
//	calico collect SECONDS GRACE          kube-controllers' collector of addresses
//
// As a CNI plugin (CNI_COMMAND is set) it is `calico-ipam` under that name, else `calico`.
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/projectcalico/calico/calicoctl/calicoctl/commands"
	"github.com/projectcalico/calico/calicoctl/calicoctl/commands/common"
	"github.com/projectcalico/calico/cni-plugin/pkg/ipamplugin"
	"github.com/projectcalico/calico/cni-plugin/pkg/plugin"
	"github.com/projectcalico/calico/libcalico-go/lib/apiconfig"
	"github.com/projectcalico/calico/libcalico-go/lib/clientv3"
	"github.com/projectcalico/calico/libcalico-go/lib/ipam"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

const (
	holdMost        = 20
	releasePercent  = 45
	exitFailed      = 1
	exitUsage       = 2
	commandPosition = 1
)

const version = "v3.28.5"

// As calicoctl; all arguments, the verb among them.
var commandsOf = map[string]func([]string) error{
	"apply": commands.Apply, "create": commands.Create, "replace": commands.Replace, "patch": commands.Patch,
	"delete": commands.Delete, "get": commands.Get, "label": commands.Label, "ipam": commands.IPAM,
	"datastore": commands.Datastore, "convert": commands.Convert,
}

func main() {
	common.VERSION = version
	if os.Getenv("CNI_COMMAND") != "" {
		if filepath.Base(os.Args[0]) == "calico-ipam" {
			ipamplugin.Main(version)
		} else {
			plugin.Main(version)
		}
		return
	}
	if len(os.Args) <= commandPosition {
		os.Exit(exitUsage)
	}
	if err := do(os.Args[commandPosition:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitFailed)
	}
}

func do(arguments []string) error {
	switch verb, rest := arguments[0], arguments[1:]; {
	case verb == "begin" && len(rest) == 0:
		return begin()
	case verb == "tunnels" && len(rest) == 0:
		return addressTunnels()
	case verb == "felix" && len(rest) == 0:
		return felix()
	case verb == "confd" && len(rest) == 1:
		return confd(rest[0])
	case verb == "collect" && len(rest) == 2:
		return collect(rest[0], rest[1])
	}
	logrus.SetOutput(io.Discard)
	switch verb, rest := arguments[0], arguments[1:]; {
	case commandsOf[verb] != nil:
		return commandsOf[verb](arguments)
	case verb == "allocate" && len(rest) > 1:
		return allocate(rest[0], rest[1:])
	case verb == "calculate" && len(rest) == 1:
		return calculate(rest[0])
	}
	os.Exit(exitUsage)
	return nil
}

func allocate(seconds string, hosts []string) error {
	limit, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	config := apiconfig.NewCalicoAPIConfig()
	config.Spec.DatastoreType = apiconfig.EtcdV3
	config.Spec.EtcdEndpoints = os.Getenv("ETCD_ENDPOINTS")
	client, err := clientv3.New(*config)
	if err != nil {
		return err
	}
	end := time.Now().Add(time.Duration(limit) * time.Second)
	var mutex sync.Mutex
	say := func(words ...any) {
		mutex.Lock()
		defer mutex.Unlock()
		fmt.Println(append([]any{time.Now().UnixNano()}, words...)...)
	}
	var group sync.WaitGroup
	for _, host := range hosts {
		group.Add(1)
		go func() {
			defer group.Done()
			live(client.IPAM(), host, end, say)
		}()
	}
	group.Wait()
	return nil
}

func live(allocator ipam.Interface, host string, end time.Time, say func(...any)) {
	ctx := context.Background()
	var held []string
	for turn := 0; time.Now().Before(end); turn++ {
		if len(held) > holdMost || len(held) > 0 && rand.Intn(100) < releasePercent {
			at := rand.Intn(len(held))
			handle := held[at]
			held = append(held[:at], held[at+1:]...)
			say("release", handle)
			if err := allocator.ReleaseByHandle(ctx, handle); err != nil {
				say("failed", handle, err)
			}
			continue
		}
		handle := fmt.Sprintf("calico.%d-%s-%d", os.Getpid(), host, turn)
		given, _, err := allocator.AutoAssign(ctx, ipam.AutoAssignArgs{
			Num4: 1, HandleID: &handle, Hostname: host, IntendedUse: v3.IPPoolAllowedUseWorkload,
			Attrs: map[string]string{"node": host, "pod": handle, "namespace": "default"},
		})
		if err != nil || given == nil || len(given.IPs) == 0 {
			say("failed", handle, err)
			continue
		}
		say("assigned", handle, given.IPs[0].IP)
		held = append(held, handle)
	}
}
